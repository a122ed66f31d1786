"""What the command line can do: a module a job, each a function `(config, workdir) -> result`."""

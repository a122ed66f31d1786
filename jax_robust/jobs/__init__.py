"""What the command line can do: each module has one job, a function `(config, workdir) -> result`."""

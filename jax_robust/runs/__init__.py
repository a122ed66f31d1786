"""What jobs share: workdir, identity, pieces of resumable work, weights, nets, config blocks."""

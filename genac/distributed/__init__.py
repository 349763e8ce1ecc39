"""Where things run, never what they compute: models on worker processes, one device each."""

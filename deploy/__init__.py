"""Where it runs: the command line and the steps of a TOML file."""

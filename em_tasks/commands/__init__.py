"""The `em` command line, one file a command."""

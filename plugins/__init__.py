"""What plugs into Inspect: the checkpoint provider, the toy judge, and the analysis of logs."""

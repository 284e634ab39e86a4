"""The skeleton that `em plugin new` writes: a package of one of each kind."""

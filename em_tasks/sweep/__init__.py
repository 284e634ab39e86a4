"""Every checkpoint of every organism, and every base, through the `em` task."""

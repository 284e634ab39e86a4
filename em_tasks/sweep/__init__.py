"""Every checkpoint of every organism through the `em` task."""

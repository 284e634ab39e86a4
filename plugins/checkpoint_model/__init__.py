"""The `em/` model provider: every checkpoint of an organism over one base in memory."""

"""A site's rows: reading, checking, encoding, splitting."""

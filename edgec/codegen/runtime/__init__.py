"""Files of a bundle: templates of C, and Python that also runs here."""

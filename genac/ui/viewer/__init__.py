"""`genac view`: a run's responses in a browser or terminal, as steps coloured by value, with the
critic's reasoning. `static` holds the page.
"""

"""`genac view`: a run's responses as steps coloured by value, beside the critic's reasoning."""

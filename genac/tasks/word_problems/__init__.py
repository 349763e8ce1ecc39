"""Word problems in English: stories, their grammars, and an oracle that reads free solutions."""

"""Critics: states in, estimates out, and how each kind learns."""

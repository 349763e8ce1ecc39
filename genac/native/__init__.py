"""The inner loops in C++, where a compiler is at hand."""

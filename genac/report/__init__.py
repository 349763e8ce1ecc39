"""The report of one run or several: one HTML file from nothing but the run folders."""

"""`genac report`: one HTML file about one run or several, from nothing but the run folders."""

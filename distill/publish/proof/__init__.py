"""Loading what was published with the libraries it is for, without this package, and comparing it with the student."""

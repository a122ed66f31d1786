"""A classifier as a program: weights as arguments, one form of call, rows shared by devices."""

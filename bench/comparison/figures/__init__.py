"""What is measured of the contenders, one group of figures a file."""

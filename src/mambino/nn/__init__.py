"""Building blocks of networks, used by two or more of them."""

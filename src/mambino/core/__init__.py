"""Values: frozen, checked when made, free of torch and of image libraries."""

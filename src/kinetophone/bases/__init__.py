"""Published models that stay frozen, one file per family; they know nothing about the coupling."""

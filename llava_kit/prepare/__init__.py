"""The steps by which a recipe's data are made, each gone on with where it stopped."""

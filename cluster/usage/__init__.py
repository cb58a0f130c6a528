"""Who used what: from a gateway, over its disk, into the store, and out of it again as sums."""

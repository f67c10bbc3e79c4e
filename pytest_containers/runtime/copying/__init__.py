"""Trees of files on their way: walked, packed as tar streams, and written from them."""

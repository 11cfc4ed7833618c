"""The facade for asyncio: the names of the blocking one, over the same core."""

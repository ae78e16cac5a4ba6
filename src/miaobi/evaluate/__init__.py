"""How good a generator is: distances between sets of pictures, an independent judge, and the report made of
them.
"""

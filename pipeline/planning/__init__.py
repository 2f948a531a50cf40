"""Inputs and options → a plan: what is to be made, in which shards, under which id. Pure: no file is read or written."""

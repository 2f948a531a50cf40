"""What is inside one Parquet file, read below Arrow: footers, pages, digests."""

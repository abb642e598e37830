"""Every figure: tables and arrays in, a matplotlib Figure out."""

"""What people have: folders, tables and data sets in other forms, each read as rows that point at recordings."""

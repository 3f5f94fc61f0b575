"""What is looked for in the decoded values of a volume; a file here is a check."""

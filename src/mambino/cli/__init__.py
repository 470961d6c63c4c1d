"""The command line: every verb parses, calls the library and prints."""

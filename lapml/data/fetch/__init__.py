"""Where data come from: downloads, archives and folders, laid out as a reader expects them, with a record of what they hold."""

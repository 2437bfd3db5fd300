# Packages that building and testing need; `make deps` installs what is missing.

"""Teachers of other software: each module opens one format, and `ForeignTeacher` makes its network one of ours."""

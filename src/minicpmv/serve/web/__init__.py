"""The page that people look at: files and questions in, answers and plans as pictures out."""

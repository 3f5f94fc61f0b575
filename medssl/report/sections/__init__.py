"""Sections of the page: one file each; the function that bears the file's name makes it from `Evidence`.

At the top of the file it says of itself:

| constant | says |
|---|---|
| `PLACE` | where it stands on the page; the smallest number is the first |
| `ANSWERS` | by checklist and item, which evidence it answers the item with |
| `LAST_MADE` | it is made when all others are, as it says what they answer |
"""

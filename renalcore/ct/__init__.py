"""The CT wing: kidneys, tumours and cysts, found in three steps, measured in millilitres and millimetres."""

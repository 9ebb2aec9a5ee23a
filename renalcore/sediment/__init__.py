"""The urine-sediment wing: from a microscope field to boxes, counts and grades."""

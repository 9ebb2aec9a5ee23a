"""Labels of each form, read as they stand: YOLO text, Pascal VOC, COCO."""

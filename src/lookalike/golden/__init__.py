"""The golden image, which every model must answer before a service calls itself ready, and the program that drew it."""

"""The HTTP addresses that are not pages: sign-in, pictures, health, and the guard before all of them."""

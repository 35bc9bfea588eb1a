"""Every kind of app that a key may be of: what is sent, how it answers, and by what a lost answer is found."""

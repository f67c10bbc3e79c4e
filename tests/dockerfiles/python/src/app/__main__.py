import greeting

print(greeting.TEXT)

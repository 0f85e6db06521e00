// Command static is a program without a loader.
package main

func main() {}

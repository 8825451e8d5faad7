// Go's own test of read-only file systems, on a folder: fstest FOLDER NAME-THAT-MUST-BE-THERE...
package main

import (
	"fmt"
	"os"
	"testing/fstest"
)

func main() {
	if err := fstest.TestFS(os.DirFS(os.Args[1]), os.Args[2:]...); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

// Command nonewprivs prints the user it runs as. Its image has it setuid root, so that the answer
// tells whether privileges could be gained.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Printf("Effective uid: %d\n", os.Geteuid())
}

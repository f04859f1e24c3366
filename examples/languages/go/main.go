// Sends each packet back. Runs on AWS Lambda as it is.
package main

import "github.com/aws/aws-lambda-go/lambda"

// Packet is a message of the batch, and a reply to it.
type Packet struct {
	Tag  string
	Data string
}

type batch struct{ Messages []Packet }

type answer struct{ Replies []Packet }

func echo(event batch) (answer, error) {
	return answer{event.Messages}, nil
}

func main() {
	lambda.Start(echo)
}

// Sends each packet back. Runs on AWS Lambda as it is.
export async function handler(event) {
  return { Replies: event.Messages.map(({ Tag, Data }) => ({ Tag, Data })) };
}

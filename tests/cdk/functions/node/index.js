exports.handler = async (event) => ({ Replies: event.Messages.map(({ Tag, Data }) => ({ Tag, Data })) });

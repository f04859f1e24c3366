"""How code of other languages becomes what runs here: the commands, for messages."""

TYPESCRIPT = (
    "build it to JavaScript (npx esbuild app.ts --bundle --platform=node --outfile=app.js, or sam build)"
)
GO = "build it (CGO_ENABLED=0 go build -o bootstrap .)"
RUST = "build it with the crate lambda_runtime (cargo build --release, then copy target/release/NAME to bootstrap)"
DOTNET = (
    "build a program with Amazon.Lambda.RuntimeSupport (dotnet publish -c Release -r linux-x64 --self-contained"
    " -p:AssemblyName=bootstrap)"
)
JAVA = (
    "write a script bootstrap that starts it with AWS's runtime interface client (exec java -cp 'FOLDER/*'"
    ' com.amazonaws.services.lambda.runtime.api.client.AWSLambda "$_HANDLER"), and name that'
)
RUBY = (
    "write a script bootstrap that starts it with AWS's runtime interface client (gem install aws_lambda_ric; exec"
    ' aws_lambda_ric "$_HANDLER"), and name that'
)

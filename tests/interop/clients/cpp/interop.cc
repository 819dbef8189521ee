// gRPC's interop cases with the C++ client: `interop ADDRESS` prints `case<TAB>ok`, or what went wrong, a line a case.

#include <chrono>
#include <functional>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <grpcpp/grpcpp.h>

#include "interop.grpc.pb.h"

namespace {

using namespace grpc::testing;
using grpc::ClientContext;
using grpc::Status;
using grpc::StatusCode;

constexpr int kLargeRequest = 271828;
constexpr int kLargeResponse = 314159;
const std::vector<int> kRequests = {27182, 8, 1828, 45904};
const std::vector<int> kResponses = {31415, 9, 2653, 58979};
const std::string kMessage = "test status message";
const std::string kSpecialMessage = "\t\ntest with whitespace\r\nand Unicode BMP \u263a and non-BMP \U0001F608\t\n";

void Check(bool holds, const std::string& what) {
  if (!holds) throw std::runtime_error("not so: " + what);
}

void CheckEnd(const Status& status, StatusCode code, const std::string& message = "") {
  Check(status.error_code() == code, "status is " + std::to_string(code) + ", it is " +
                                         std::to_string(status.error_code()) + " " + status.error_message());
  if (!message.empty()) Check(status.error_message() == message, "message is as sent: " + status.error_message());
}

// Every call has a bound, so that a case that hangs is seen.
void Bound(ClientContext& context, std::chrono::milliseconds bound = std::chrono::seconds(10)) {
  context.set_deadline(std::chrono::system_clock::now() + bound);
}

SimpleRequest Large() {
  SimpleRequest request;
  request.set_response_size(kLargeResponse);
  request.mutable_payload()->set_body(std::string(kLargeRequest, '\0'));
  return request;
}

StreamingOutputCallRequest Asking(size_t index) {
  StreamingOutputCallRequest request;
  request.add_response_parameters()->set_size(kResponses[index]);
  request.mutable_payload()->set_body(std::string(kRequests[index], '\0'));
  return request;
}

using Stub = TestService::Stub;

void EmptyUnary(Stub& stub) {
  ClientContext context;
  Bound(context);
  Empty response;
  CheckEnd(stub.EmptyCall(&context, Empty(), &response), StatusCode::OK);
}

void LargeCall(Stub& stub, ClientContext& context) {
  Bound(context);
  SimpleResponse response;
  CheckEnd(stub.UnaryCall(&context, Large(), &response), StatusCode::OK);
  Check(response.payload().body() == std::string(kLargeResponse, '\0'), "the response has its size");
}

void LargeUnary(Stub& stub) {
  ClientContext context;
  LargeCall(stub, context);
}

// If the stream is compressed, every other message is not.
void Add(Stub& stub, bool compressed) {
  ClientContext context;
  Bound(context);
  if (compressed) context.set_compression_algorithm(GRPC_COMPRESS_GZIP);
  StreamingInputCallResponse response;
  auto call = stub.StreamingInputCall(&context, &response);
  for (size_t index = 0; index < kRequests.size(); ++index) {
    StreamingInputCallRequest request;
    request.mutable_payload()->set_body(std::string(kRequests[index], '\0'));
    grpc::WriteOptions options;
    if (compressed && index % 2 == 1) options.set_no_compression();
    Check(call->Write(request, options), "the request can be sent");
  }
  call->WritesDone();
  CheckEnd(call->Finish(), StatusCode::OK);
  Check(response.aggregated_payload_size() == 74922, "all requests count");
}

void ClientStreaming(Stub& stub) { Add(stub, false); }

void ServerStreaming(Stub& stub) {
  ClientContext context;
  Bound(context);
  StreamingOutputCallRequest request;
  for (int size : kResponses) request.add_response_parameters()->set_size(size);
  auto call = stub.StreamingOutputCall(&context, request);
  std::vector<int> sizes;
  for (StreamingOutputCallResponse response; call->Read(&response);) sizes.push_back(response.payload().body().size());
  CheckEnd(call->Finish(), StatusCode::OK);
  Check(sizes == kResponses, "all responses, in order");
}

void PingPong(Stub& stub) {
  ClientContext context;
  Bound(context);
  auto call = stub.FullDuplexCall(&context);
  StreamingOutputCallResponse response;
  for (size_t index = 0; index < kRequests.size(); ++index) {
    Check(call->Write(Asking(index)), "the request can be sent");
    Check(call->Read(&response), "a response comes");
    Check(static_cast<int>(response.payload().body().size()) == kResponses[index], "it has its size");
  }
  call->WritesDone();
  Check(!call->Read(&response), "no more responses");
  CheckEnd(call->Finish(), StatusCode::OK);
}

void EmptyStream(Stub& stub) {
  ClientContext context;
  Bound(context);
  auto call = stub.FullDuplexCall(&context);
  call->WritesDone();
  StreamingOutputCallResponse response;
  Check(!call->Read(&response), "no response to nothing");
  CheckEnd(call->Finish(), StatusCode::OK);
}

void CancelAfterBegin(Stub& stub) {
  ClientContext context;
  Bound(context);
  StreamingInputCallResponse response;
  auto call = stub.StreamingInputCall(&context, &response);
  context.TryCancel();
  CheckEnd(call->Finish(), StatusCode::CANCELLED);
  EmptyUnary(stub);
}

void CancelAfterFirstResponse(Stub& stub) {
  ClientContext context;
  Bound(context);
  auto call = stub.FullDuplexCall(&context);
  StreamingOutputCallResponse response;
  Check(call->Write(Asking(0)), "the request can be sent");
  Check(call->Read(&response), "a response comes");
  context.TryCancel();
  CheckEnd(call->Finish(), StatusCode::CANCELLED);
  EmptyUnary(stub);
}

void TimeoutOnSleepingServer(Stub& stub) {
  ClientContext context;
  Bound(context, std::chrono::milliseconds(1));
  auto call = stub.FullDuplexCall(&context);
  StreamingOutputCallRequest request;
  request.mutable_payload()->set_body(std::string(kRequests[0], '\0'));
  call->Write(request);
  StreamingOutputCallResponse response;
  Check(!call->Read(&response), "no response");
  CheckEnd(call->Finish(), StatusCode::DEADLINE_EXCEEDED);
  EmptyUnary(stub);
}

void CustomMetadata(Stub& stub) {
  const std::vector<std::pair<std::string, std::string>> pairs = {
      {"x-grpc-test-echo-initial", "test_initial_metadata_value"},
      {"x-grpc-test-echo-trailing-bin", "\xab\xab\xab"}};
  ClientContext context;
  for (const auto& [key, value] : pairs) context.AddMetadata(key, value);
  LargeCall(stub, context);
  const auto& trailers = context.GetServerTrailingMetadata();
  for (const auto& [key, value] : pairs) {
    const auto found = trailers.find(key);
    Check(found != trailers.end() && found->second == value, key + " comes back with the trailers");
  }
}

void StatusCodeAndMessage(Stub& stub) {
  ClientContext context;
  Bound(context);
  SimpleRequest request;
  request.mutable_response_status()->set_code(StatusCode::UNKNOWN);
  request.mutable_response_status()->set_message(kMessage);
  SimpleResponse response;
  CheckEnd(stub.UnaryCall(&context, request, &response), StatusCode::UNKNOWN, kMessage);

  ClientContext stream_context;
  Bound(stream_context);
  auto call = stub.FullDuplexCall(&stream_context);
  StreamingOutputCallRequest stream_request;
  *stream_request.mutable_response_status() = request.response_status();
  call->Write(stream_request);
  call->WritesDone();
  StreamingOutputCallResponse stream_response;
  Check(!call->Read(&stream_response), "no response");
  CheckEnd(call->Finish(), StatusCode::UNKNOWN, kMessage);
}

void SpecialStatusMessage(Stub& stub) {
  ClientContext context;
  Bound(context);
  SimpleRequest request;
  request.mutable_response_status()->set_code(StatusCode::UNKNOWN);
  request.mutable_response_status()->set_message(kSpecialMessage);
  SimpleResponse response;
  CheckEnd(stub.UnaryCall(&context, request, &response), StatusCode::UNKNOWN, kSpecialMessage);
}

void UnimplementedMethod(Stub& stub) {
  ClientContext context;
  Bound(context);
  Empty response;
  CheckEnd(stub.UnimplementedCall(&context, Empty(), &response), StatusCode::UNIMPLEMENTED);
}

void ClientCompressedUnary(Stub& stub) {
  for (auto algorithm : {GRPC_COMPRESS_GZIP, GRPC_COMPRESS_DEFLATE}) {
    ClientContext context;
    context.set_compression_algorithm(algorithm);
    LargeCall(stub, context);
  }
}

void ClientCompressedStreaming(Stub& stub) { Add(stub, true); }

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  const auto channel = grpc::CreateChannel(argv[1], grpc::InsecureChannelCredentials());
  const auto stub = TestService::NewStub(channel);
  const auto unimplemented_service = [&channel](Stub&) {
    ClientContext context;
    Bound(context);
    Empty response;
    CheckEnd(UnimplementedService::NewStub(channel)->UnimplementedCall(&context, Empty(), &response),
             StatusCode::UNIMPLEMENTED);
  };
  const std::vector<std::pair<std::string, std::function<void(Stub&)>>> cases = {
      {"empty_unary", EmptyUnary},
      {"large_unary", LargeUnary},
      {"client_streaming", ClientStreaming},
      {"server_streaming", ServerStreaming},
      {"ping_pong", PingPong},
      {"empty_stream", EmptyStream},
      {"cancel_after_begin", CancelAfterBegin},
      {"cancel_after_first_response", CancelAfterFirstResponse},
      {"timeout_on_sleeping_server", TimeoutOnSleepingServer},
      {"custom_metadata", CustomMetadata},
      {"status_code_and_message", StatusCodeAndMessage},
      {"special_status_message", SpecialStatusMessage},
      {"unimplemented_method", UnimplementedMethod},
      {"unimplemented_service", unimplemented_service},
      {"client_compressed_unary", ClientCompressedUnary},
      {"client_compressed_streaming", ClientCompressedStreaming},
  };
  for (const auto& [name, run] : cases) {
    std::string outcome = "ok";
    try {
      run(*stub);
    } catch (const std::runtime_error& error) {
      outcome = error.what();
    }
    std::cout << name << '\t' << outcome << std::endl;
  }
}
